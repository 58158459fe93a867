"""How the commands of this package end."""

import sys
from collections.abc import Callable
from typing import NoReturn


def run_command(name: str, main: Callable[[], int]) -> NoReturn:
    """Exit with what main() returns; a ValueError or OSError is the user's to mend: one line and status 2."""
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
