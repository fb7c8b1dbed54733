"""Two federations to try: `breast_cancer` (bundled with scikit-learn), `heart_disease` (four real hospitals, UCI).

`digits` is no federation but two tables, from simulation: `python -m hanse.demos.digits strategies`, and `attacks`.
"""
