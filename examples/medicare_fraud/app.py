"""Provider fraud: logistic regression over sites that may not show each other their providers.

The recipe: scikit-learn's LogisticRegression with an L2 penalty and `max_iter=10`; a train and a validation part at
each site; fraud is rare, so its rows weigh more (`app`), or are multiplied by SMOTE (`smote`); evaluation on the
server's test set only; what a site does follows from the round number in its config.

Round 1 measures: the mean over sites of each column's mean and mean square, and of the share of fraud, is that of all
rows together. So from round 2 on every site scales and weighs its rows alike, and what no site could know alone has
cost one round. The weight of fraud is the root of the imbalance, 3.1 here: halfway, in orders of magnitude, between
ignoring it and balancing it fully, which costs precision among the providers that look worst.

    hanse run examples/medicare_fraud/app.py            with class weights
    hanse run examples/medicare_fraud/app.py:smote      with SMOTE (needs imbalanced-learn at the sites)
"""
# mypy: allow-untyped-defs, allow-untyped-calls

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, log_loss, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import hanse as hs

FEATURES = 17
ROUNDS = 8
SETTINGS = {"penalty": "l2", "max_iter": 10, "solver": "lbfgs", "validation_share": 0.2}


def make_app(balance, tracking=None):
    """The app, with `balance` = `weights` or `smote`."""
    zeros = np.zeros(FEATURES)
    initial = {
        "coef": zeros,
        "intercept": np.zeros(1),
        "mean": zeros,
        "square": np.ones(FEATURES),
        "share": np.full(1, 0.5),
    }
    app = hs.App(hs.FedAvg(), rounds=ROUNDS, quorum=3, initial=initial, tracking=tracking)

    @app.config
    def config(round, site):
        return {"step": "measure" if round == 1 else "train", "balance": balance, "max_iter": SETTINGS["max_iter"]}

    @app.train
    def train(arrays, config, site):
        (X, y), validation = parts(*site.load("providers"))
        if config["step"] == "measure":
            measured = {"mean": X.mean(axis=0), "square": (X**2).mean(axis=0), "share": np.array([y.mean()])}
            return {**arrays, **measured}, len(y), {"train_size": len(y), "fraud": int(y.sum())}
        model = LogisticRegression(max_iter=config["max_iter"], warm_start=True)
        rows, labels = scaled(X, arrays), y
        if config["balance"] == "smote":
            from imblearn.over_sampling import SMOTE

            rows, labels = SMOTE(random_state=site.seed).fit_resample(rows, labels)
        else:
            share = float(arrays["share"][0])
            model.class_weight = {0: 1.0, 1: np.sqrt((1 - share) / share)}
        begin_from(model, arrays)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # ten steps a round are meant
            model.fit(rows, labels)
        new = {**arrays, "coef": model.coef_[0], "intercept": model.intercept_}
        judged = scores(new, *validation)
        metrics = {"loss": log_loss(y, chance(new, X)), **{f"validation_{name}": each for name, each in judged.items()}}
        return new, len(y), metrics | {"optimizer": "lbfgs", "balance": config["balance"]}

    @app.evaluate_on_server
    def evaluate(arrays, round, load):
        X, y = load("test")
        return scores(arrays, logged(X), y)

    return app


def logged(X):
    """Counts and sums of money over orders of magnitude: log(1 + x), with the sign of x. `(n, 17)`."""
    X = np.asarray(X, float)
    return np.sign(X) * np.log1p(np.abs(X))


def parts(X, y):
    """The site's train and validation part, each (X logged, y); the same in every round."""
    X, X_validation, y, y_validation = train_test_split(
        logged(X), np.asarray(y, int), test_size=SETTINGS["validation_share"], stratify=y, random_state=0
    )
    return (X, y), (X_validation, y_validation)


def scaled(X, arrays):
    """By mean and deviation of all sites' train rows together."""
    spread = np.sqrt(np.maximum(np.asarray(arrays["square"]) - np.asarray(arrays["mean"]) ** 2, 1e-12))
    return (X - np.asarray(arrays["mean"])) / spread


def begin_from(model, arrays):
    """Have `fit` go on from the received model, as `warm_start` does from an earlier one."""
    model.classes_ = np.array([0, 1])
    model.coef_, model.intercept_ = np.array([arrays["coef"]]), np.array(arrays["intercept"])


def chance(arrays, X):
    """The chance of fraud of each row, X logged."""
    return 1 / (1 + np.exp(-(scaled(X, arrays) @ np.asarray(arrays["coef"]) + np.asarray(arrays["intercept"])[0])))


def scores(arrays, X, y):
    """AUC, average precision, log loss and F1 at 0.5."""
    p = chance(arrays, X)
    return {
        "auc": float(roc_auc_score(y, p)),
        "average_precision": float(average_precision_score(y, p)),
        "loss": float(log_loss(y, p)),
        "f1": float(f1_score(y, p > 0.5)),
    }


def estimator(arrays):
    """The trained model as a scikit-learn pipeline; it takes what `logged` gives."""
    scaler, model = StandardScaler(), LogisticRegression(max_iter=SETTINGS["max_iter"])
    mean, square = np.array(arrays["mean"]), np.array(arrays["square"])
    scaler.mean_, scaler.var_ = mean, np.maximum(square - mean**2, 1e-12)
    scaler.scale_, scaler.n_features_in_, scaler.n_samples_seen_ = np.sqrt(scaler.var_), FEATURES, 1
    begin_from(model, arrays)
    model.n_features_in_ = FEATURES
    return make_pipeline(scaler, model)


app = make_app("weights")
smote = make_app("smote")
