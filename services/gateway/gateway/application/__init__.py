"""What the door does beyond translating: who asks, and whether it was asked before. The ports stand here, too."""
