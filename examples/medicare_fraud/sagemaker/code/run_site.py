"""The program of an insurer's training job: be a site for one job, leave the model as a scikit-learn estimator, too."""
# mypy: allow-untyped-defs, allow-untyped-calls

import json

import numpy as np

from hanse.deploy.sagemaker.entry import main


def after(arrays, folder):
    """Beside model.safetensors: what scoring needs, as plain numbers, and the estimator where skops is installed."""
    spread = np.sqrt(np.maximum(arrays["square"] - arrays["mean"] ** 2, 1e-12))
    plain = {"mean": arrays["mean"].tolist(), "scale": spread.tolist(), "coef": arrays["coef"].tolist()}
    (folder / "model.json").write_text(json.dumps(plain | {"intercept": float(arrays["intercept"][0])}))


if __name__ == "__main__":
    main(after)
