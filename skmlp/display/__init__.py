"""Pictures of a fit, by scikit-learn's conventions for displays.

Each display holds numbers; `plot` draws them with matplotlib, which is imported then.
`from_estimator` takes the numbers from a fitted estimator and draws at once.
"""
