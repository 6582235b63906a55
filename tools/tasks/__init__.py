"""Three small networks of other tasks than classification: what they are trained on, and how.

`scenes` and `grammar` make the data, `vision` and `tags` the networks. All is seeded.
"""
