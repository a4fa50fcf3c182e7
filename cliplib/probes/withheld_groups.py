"""Groups that scikit-learn's cross-validation withholds from `fit`, and their refusal.

``cross_val_predict(probe, X, y, groups=groups)`` splits by groups, but calls ``fit``
without them, unless metadata routing is on. The probe would then choose its settings on
rows that share a group with rows it is fitted on, and nobody would notice.
"""

from __future__ import annotations

import traceback


def refuse_withheld_groups() -> None:
    """Raise a ValueError if scikit-learn's cross-validation keeps groups from `fit`.

    That it was given groups can only be seen in its own local variables, further up the
    stack of calls. Calls in other processes and threads are not noticed.
    """
    for frame, _ in traceback.walk_stack(None):
        if not str(frame.f_globals.get("__name__")).startswith("sklearn."):
            continue
        # Its name for what it passes on, by receiver and method.
        splitter = frame.f_locals.get("routed_params", {}).get("splitter")
        if splitter and splitter["split"].get("groups") is not None:
            raise ValueError(
                "scikit-learn would keep these groups from fit. Call "
                "sklearn.set_config(enable_metadata_routing=True) and pass "
                "params={'groups': groups} in place of groups=groups; or use "
                "cliplib.out_of_fold_proba."
            )
