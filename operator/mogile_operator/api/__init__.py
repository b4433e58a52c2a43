"""The API of the operator: typed models (`v1alpha1`) and the generator that makes CRDs of them (`crdgen`)."""
