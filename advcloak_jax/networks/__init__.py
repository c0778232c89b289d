"""The generator and the discriminator of AdvCloak."""
