"""``python -m aethernet``: the command line, where no ``aethernet`` is on the PATH."""

from aethernet.cli.main import main

if __name__ == "__main__":
    main()
