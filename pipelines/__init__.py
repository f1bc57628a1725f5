"""Prefect flows: when and where stages run. The only package that imports prefect; nothing in ``graft`` imports it.

``launch`` starts a flow from a shell, ``finetune`` is the chain, ``promote`` a decision, ``stage`` what a worker of
another machine runs, ``placement`` how the chain hands a stage to it.
"""
