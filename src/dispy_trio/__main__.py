"""``python -m dispy_trio`` is the command ``dispy-trio``."""

from dispy_trio.cli.app import main

if __name__ == "__main__":
    main()
