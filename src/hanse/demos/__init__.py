"""Two federations to try: `breast_cancer` (bundled with scikit-learn), `heart_disease` (four real hospitals, UCI)."""
