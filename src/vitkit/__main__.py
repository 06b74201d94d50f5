"""`python -m vitkit`, the same as the `vitkit` command."""

from vitkit.cli.main import main

if __name__ == "__main__":
    main()
