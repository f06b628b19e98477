"""The geometric claims of the method, measured on synthetic problems whose answers are known in closed form.

Actions lie on known curves and surfaces (:mod:`manifolds`), values have known gradients (:mod:`problem`), decoders
are exact or learned (:mod:`decoders`), and the rules are the shipped ones (:mod:`rules`). Each claim is a module of its
own; :mod:`claims` lists them by name.
"""
