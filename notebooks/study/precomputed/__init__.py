"""Features of the named data sets; beside them, who is a copy and who the patient.

Groups and patients stand in text files of their own, so that a better audit changes a
few lines and no features. ``python -m study.precomputed DATA`` writes them.
"""
