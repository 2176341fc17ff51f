"""What is done beside projecting."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from catalog_query.domain.projection import Pointer, Target


class Chores(Protocol):
    """What is done beside projecting, for generations that need it."""

    def due(
        self,
        pointers: Mapping[int, Sequence[Pointer]],
        progress: Callable[[Target, int], Sequence[tuple[int, int, int]]],
    ) -> Sequence[tuple[str, Coroutine[Any, Any, None]]]:
        """What should run now, each under a name: one of a name runs at a time.

        Args:
            pointers: the generations, by shard of the read model.
            progress: how far a generation is there: shard of the log, checkpoint, head.
        """
        ...


class NoChores:
    """Nothing to do beside."""

    def due(
        self,
        pointers: Mapping[int, Sequence[Pointer]],
        progress: Callable[[Target, int], Sequence[tuple[int, int, int]]],
    ) -> Sequence[tuple[str, Coroutine[Any, Any, None]]]:
        """Nothing."""
        del pointers, progress
        return ()
