module openmcp.dev/parts/aigateway

go 1.26.4

require github.com/envoyproxy/ai-gateway v1.0.0 // its CRDs: nothing is built
