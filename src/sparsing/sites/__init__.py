"""Where the neurons of a model are: `site` describes one place, `discovery` finds them, `tap` reads and changes them."""
