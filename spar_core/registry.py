"""The choices: one line a member, ``name: "module:class"``.

This table holds strings so that a new line here imports nothing and changes the code of no other member.
It is the one module that the code digests leave out; each cell's digest holds the member it loads instead.
"""

ANCHORS = {
    "mlp": "spar_core.anchors.mlp:MLPAnchor",
    "gaussian": "spar_core.anchors.gaussian:GaussianAnchor",
    "mixture": "spar_core.anchors.mixture:MixtureAnchor",
    "cvae": "spar_core.anchors.cvae:CVAEAnchor",
    "flow": "spar_core.anchors.flow:FlowAnchor",
    "diffusion": "spar_core.anchors.diffusion:DiffusionAnchor",
    "knn": "spar_core.anchors.knn:KNNAnchor",
    "linear": "spar_core.anchors.linear:LinearAnchor",
    "external": "spar_core.anchors.external:ExternalAnchor",
}

CRITICS = {
    "iql": "spar_core.critics.iql:IQLCritic",
    "iql_ensemble": "spar_core.critics.iql_ensemble:IQLEnsembleCritic",
    "cql": "spar_core.critics.cql:CQLCritic",
    "edac": "spar_core.critics.edac:EDACCritic",
    "sarsa": "spar_core.critics.sarsa:SARSACritic",
    "returns": "spar_core.critics.returns:ReturnsCritic",
}

IMPROVEMENTS = {
    "anchor": "spar_core.improvement.anchor:AnchorAlone",
    "spar_mlp": "spar_core.improvement.spar_mlp:SparMLP",
    "spar_proj": "spar_core.improvement.spar_proj:SparProj",
    "awr": "spar_core.improvement.awr:AWR",
    "awr_scratch": "spar_core.improvement.awr:AWRFromScratch",
    "value_gradient": "spar_core.improvement.value_gradient:ValueGradient",
    "best_of_n": "spar_core.improvement.best_of_n:BestOfN",
    "auto": "spar_core.choice.auto:Auto",
}

FAMILIES = {"anchor": ANCHORS, "critic": CRITICS, "improvement": IMPROVEMENTS}
