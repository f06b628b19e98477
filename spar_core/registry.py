"""The choices: one line a member, ``name: "module:class"``.

This table holds strings so that a new line here imports nothing and changes the code of no other member.
It is the one module that the code digests leave out; each cell's digest holds the member it loads instead.
"""

ANCHORS = {
    "mlp": "spar_core.anchors.mlp:MLPAnchor",
}

CRITICS = {
    "iql": "spar_core.critics.iql:IQLCritic",
}

IMPROVEMENTS = {
    "anchor": "spar_core.improvement.anchor:AnchorAlone",
    "spar_mlp": "spar_core.improvement.spar_mlp:SparMLP",
    "spar_proj": "spar_core.improvement.spar_proj:SparProj",
    "awr": "spar_core.improvement.awr:AWR",
    "best_of_n": "spar_core.improvement.best_of_n:BestOfN",
}

FAMILIES = {"anchor": ANCHORS, "critic": CRITICS, "improvement": IMPROVEMENTS}
