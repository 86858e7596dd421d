"""Small real models and photographs shipped with the package; see NOTICE."""
