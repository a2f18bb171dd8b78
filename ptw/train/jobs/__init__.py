"""How does a run train on a cluster that takes jobs, while its folder is followed from here?"""
