"""Make the embedded feature tables anew: ``python -m cliplib.packs DATA [--model MODEL] [NAME ...]``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from cliplib.data import DATASETS
from cliplib.errors import CliplibError
from cliplib.packs import load_features, save_pack


def main(arguments: Sequence[str] | None = None) -> int:
    """Encode every named data set in fp32, without a cache, and keep its features and groups; 0 if all went well."""
    parser = argparse.ArgumentParser(prog="python -m cliplib.packs", description=__doc__)
    parser.add_argument("data", metavar="DATA", help="folder that holds the data sets, or 'hub'")
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"which (default: {' '.join(DATASETS)})")
    parser.add_argument("--model", default="mini", help="encoder: the embedded one (default), a hub id, or a folder")
    options = parser.parse_args(arguments)
    from cliplib.encoder import ClipEncoder  # after the arguments are known to be right: it takes seconds

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        encoder = ClipEncoder.from_pretrained(options.model, dtype="float32")
        for name in options.names or DATASETS:
            table = load_features(name, encoder, data=options.data, groups=True)
            if table.provenance["source"] == "pack":  # its public home could not be reached
                raise CliplibError(f"There are no images of {name!r} to make a pack from.")
            save_pack(name, table, encoder)
    except CliplibError as error:
        logging.getLogger(__name__).error("%s", error)
        return 1
    except KeyboardInterrupt:
        logging.getLogger(__name__).error("Interrupted: the packs that were kept are whole; name the others to go on.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
