"""Entry point of ``python -m benchmarks.decoding``."""

from benchmarks.decoding.run import main

if __name__ == "__main__":
    main()
