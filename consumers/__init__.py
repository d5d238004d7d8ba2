"""What an API node installs: follower, deny list, guard, node, framework adapters. The names live in the modules."""
