"""The geometric claims of the method, measured where everything is known in closed form.

Actions lie on known curves and surfaces (:mod:`manifolds`), values have known gradients (:mod:`problem`), decoders
are exact or learned (:mod:`decoders`), and the rules are the shipped ones (:mod:`rules`). Each claim is a module of its
own, by its name in :mod:`claims`.
"""
