//! One libp2p swarm: transports, DHT, local discovery, streams, paths
