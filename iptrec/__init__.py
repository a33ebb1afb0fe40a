"""iptrec: a flight recorder for netfilter.

kernel -> recorder -> file -> reader -> columns -> traces -> answers -> views.
"""

__version__ = "0.1.0"
