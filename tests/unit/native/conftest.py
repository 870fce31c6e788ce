import sys
from pathlib import Path

# the scripts below deploy/native import each other by name, as they do when they run
sys.path.append(str(Path(__file__).resolve().parents[3] / "deploy" / "native"))
