"""Face recognisers: backbones, margins and the zoo that names them."""
