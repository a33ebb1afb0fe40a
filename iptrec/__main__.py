"""``python -m iptrec``: the same as the ``iptrec`` command."""

from iptrec.cli import main

main()
