"""Where runs run: one module per kind of place, all behind `base.Backend`."""
