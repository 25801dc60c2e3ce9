"""What programs use: a Trio-native cluster, and a dispy-shaped blocking one over it."""
