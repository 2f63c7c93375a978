"""Amazon's reviews in the forms in which they are published (docs/published_data.md)."""
