"""Commands of `pooler` that put the packages together: here `pooler`, `admin` and `metrics` may meet."""
