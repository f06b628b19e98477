"""Keep policies where they lie when DVC tidies up.

`dvc checkout`, with which `dvc exp run` begins, removes the outputs that DVC has made and that dvc.yaml does not name
at the moment: those of other studies, and those that a shorter list leaves out. DVC has a list of the outputs that it
may remove, and policies are taken from that list, since something may act with them.
"""

from __future__ import annotations

from pathlib import Path

from stages.layout import Layout


def keep_policies(layout: Layout) -> None:
    """Let DVC forget that it may remove the present policies. Without DVC, nothing happens."""
    if not (layout.root / ".dvc").is_dir():
        return
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    policies = layout.artifact("policy").relative_to(layout.root)
    try:
        with Repo(str(layout.root)) as repo, repo.state.links as made:
            for path in [path for path in made if Path(path).is_relative_to(policies)]:
                del made[path]
    except DvcException:
        return
