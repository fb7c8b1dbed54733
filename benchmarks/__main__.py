"""The command `python -m benchmarks`, which is `./run bench`.

Exit codes: 0 every judged figure reached its target, 1 some did not or a benchmark failed, 2 wrong
arguments, 130 interrupted.
"""

import argparse
import signal
import sys
from pathlib import Path

from benchmarks import harness


def main(argv: list[str] | None = None, folder: Path = harness.FOLDER) -> int:
    """Run the benchmarks named in `argv` (all, if none is named) and return the exit code.

    Args:
        argv: arguments without the program's name; `None` takes those of the process.
        folder: where the benchmark modules lie.
    """
    parser = argparse.ArgumentParser(prog="./run bench", description="Measure Hanse against its targets.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, figures not judged: does it work?")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    arguments = parser.parse_args(argv)

    known = harness.discover(folder)
    if arguments.list:
        print("\n".join(known))
        return 0
    chosen = list(dict.fromkeys(name.replace("_", "-") for name in arguments.names)) or list(known)
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        found = ", ".join(unknown) or "no benchmark"
        print(f"bench: expected names among {', '.join(known) or '(none)'}; found {found}", file=sys.stderr)
        return 2

    show = harness.JsonLines() if arguments.json else harness.Table()
    try:
        # A list, not a generator: one failure must not hide the others.
        passed = [harness.run_apart(name, show, folder=folder, smoke=arguments.smoke) for name in chosen]
    except KeyboardInterrupt:
        return 130
    finally:
        show.close()
    return 0 if all(passed) else 1


if __name__ == "__main__":
    # Both ask it to end the benchmark's processes and stop; a shell may have had Ctrl-C ignored for it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
