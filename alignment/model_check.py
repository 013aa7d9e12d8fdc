"""Whether a model folder loads as the stages load it: `python -m alignment.model_check FOLDER`.

0 and no word, or 2 and what is wrong on stderr. A process of its own, since it needs torch and who asks does not.
"""

import sys
from pathlib import Path

from alignment.models import check_loads
from data.schema import UserError

if __name__ == "__main__":
    try:
        check_loads(Path(sys.argv[1]))
    except UserError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
