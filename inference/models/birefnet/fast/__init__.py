"""A second path through the same weights: the same sums, in an order that costs less.

Everything that depends on the weights and the picture's side alone is made once, from a loaded
`BiRefNet`. Which levers are in it, and what each brought, stands in `docs/performance.md`.
"""
