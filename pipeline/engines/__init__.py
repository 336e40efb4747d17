"""What differs by engine: each as a few properties, how it is started, checked, stopped and asked.

No runner is named or imported anywhere else; whoever has to know asks for a property of `Engine`.
A new engine is one file here and one line in `choose.py`.
"""

from pipeline.engines.local import ENGINE as HERE
from pipeline.engines.properties import Engine, Finished, Stopped

__all__ = ["HERE", "Engine", "Finished", "Stopped"]
