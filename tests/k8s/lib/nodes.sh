# nodes
remove_nodes() { :; }
