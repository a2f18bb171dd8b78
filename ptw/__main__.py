"""`python -m ptw` is `ptw`."""

from ptw.cli import main

if __name__ == "__main__":
    main()
