"""Write the bill of materials of a release: its files, and no dependencies.

SOURCE_DATE_EPOCH=... python tools/sbom.py dist

Writes dist/sbom/pyasynclife-VERSION.cdx.json. The wheels contain no code of others, so
none of them has an SBOM of its own (PEP 770).
"""

import json
import os
import sys
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from archives import sha256


def bill_of_materials(version: str, files: Sequence[Path], epoch: int) -> str:
    """Return the bill as CycloneDX 1.6."""
    package = f"pkg:pypi/pyasynclife@{version}"
    component = {"name": "pyasynclife", "version": version, "purl": package}
    component |= {"type": "library", "bom-ref": package}
    listed = [
        {
            "type": "file",
            "name": file.name,
            "hashes": [{"alg": "SHA-256", "content": sha256(file)}],
        }
        for file in sorted(files)
    ]
    contents = json.dumps(listed)
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, contents)}",
        "version": 1,
        "metadata": {
            "timestamp": f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%dT%H:%M:%SZ}",
            "component": {**component, "licenses": [{"license": {"id": "MIT"}}]},
        },
        "components": listed,
        "dependencies": [{"ref": package, "dependsOn": []}],
        "compositions": [{"aggregate": "complete", "dependencies": [package]}],
    }
    return json.dumps(bill, indent=2) + "\n"


def write_bill(dist: Path, epoch: int) -> None:
    """Write the bill of the files in a directory into its subdirectory sbom."""
    files = [file for file in dist.iterdir() if file.is_file()]
    (sdist,) = dist.glob("*.tar.gz")
    version = sdist.name.removesuffix(".tar.gz").partition("-")[2]
    (dist / "sbom").mkdir()
    bill = bill_of_materials(version, files, epoch)
    (dist / "sbom" / f"pyasynclife-{version}.cdx.json").write_text(bill)


if __name__ == "__main__":
    write_bill(Path(sys.argv[1]), int(os.environ["SOURCE_DATE_EPOCH"]))
