"""The fast path: a network with a checkpoint's weights, computed in a cheaper order.

Everything that depends only on the weights and the picture's side is computed once, from a loaded
`BiRefNet`. `docs/performance.md` lists the optimizations, and what each brought.
"""
