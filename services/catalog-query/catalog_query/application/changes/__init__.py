"""The change feed: every change of every product, in order, from any point on, without gaps.

Whoever follows at the head shares one subscription to the log with all the others (`tail`); whoever is behind reads
the log by itself, page by page (`feed`), until it has caught up. Nothing is dropped for anybody: a reader that is slow
falls out of what the tail remembers, and is simply behind again. What an event changed is found by folding the product
(`describing`), and a point of the feed is a vector of positions with a mark of the log that they belong to (`places`).
"""
