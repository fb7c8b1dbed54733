"""The app of `./run demo --vertical`, as a user would write it: one model over columns that three companies keep."""

import hanse as hs

app = hs.vertical.LogisticRegression(
    label="malignant",
    key="patient",
    dataset="patients",
    epochs=15,
    batch_rows=48,
    learning_rate=0.2,
    l2=0.01,
    test=0.3,
    seed=1,
)
