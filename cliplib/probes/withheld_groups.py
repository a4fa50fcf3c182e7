"""The refusal of groups that scikit-learn's cross-validation withholds from `fit`.

``cross_val_predict(probe, X, y, groups=groups)`` splits by groups, but calls ``fit``
without them, unless metadata routing is on. The probe would then choose hyperparameters
on rows that share a group with its training rows, and nobody would notice.
"""

from __future__ import annotations

import traceback


def refuse_withheld_groups() -> None:
    """Raise a ValueError if scikit-learn withholds groups from the current `fit`.

    Whether its cross-validation was given groups can only be seen in its local
    variables, further up the call stack. Calls in other processes and threads go
    unnoticed.
    """
    for frame, _ in traceback.walk_stack(None):
        if not str(frame.f_globals.get("__name__")).startswith("sklearn."):
            continue
        # Scikit-learn's name for the arguments that it passes on, by receiver.
        splitter = frame.f_locals.get("routed_params", {}).get("splitter")
        if splitter and splitter["split"].get("groups") is not None:
            raise ValueError(
                "scikit-learn would keep these groups from fit. Call "
                "sklearn.set_config(enable_metadata_routing=True) and pass "
                "params={'groups': groups} in place of groups=groups; or use "
                "cliplib.out_of_fold_proba."
            )
