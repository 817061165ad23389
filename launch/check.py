"""Verifies a dataset: its card, each shard's size and checksum, each index against its tar, labels and keys; then
decodes frames at the start, the middle and the end of each video, the way that training does it.

    tubelet check SHARDS
    tubelet check SHARDS --decode full --report faults.json --quarantine bad.jsonl

Exit code 0 if all is well, 1 with faults. `train --quarantine bad.jsonl` leaves the bad videos out.
"""

import sys
from collections.abc import Sequence

from tubelet.launch.main import parse, start

_SHOWN = 20  # faults named on the terminal


def main(argv: Sequence[str]) -> None:
    from tubelet.datasets import CheckConfig, DataError, check_data
    from tubelet.pipeline.files import write_json
    from tubelet.pipeline.training.faults import write_quarantine

    config = parse(CheckConfig, "check", __doc__, argv)
    findings = check_data(config)
    for line in findings.lines():
        print(line, flush=True)
    if config.report is not None:
        write_json(config.report, findings.as_json())
    if config.quarantine is not None:
        write_quarantine(config.quarantine, findings.unreadable)
    if not findings.faults:
        return
    for fault in findings.faults[:_SHOWN]:
        print(f"  {fault}", file=sys.stderr)
    more = len(findings.faults) - _SHOWN
    where = f"; {config.report} names each" if config.report else "; --report FILE names each" if more > 0 else ""
    raise DataError(f"{config.data}: {len(findings.faults)} faults{where}")


if __name__ == "__main__":
    start(main)
