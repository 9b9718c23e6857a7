"""What a machine needs to run the pooler: recipes and units as files, and what is made from the tables: a sample ini,
manuals, completion. `pooler print` writes each to standard output.
"""
