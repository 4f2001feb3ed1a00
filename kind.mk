# A cluster of your own with Docker and kind: `make kind` makes it, builds and loads the images, and installs the chart.
KIND ?= kind
KIND_CLUSTER ?= archsearch
KIND_TAG := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# The small build of torch; make kind TORCH_INDEX_URL= takes pip's own index, with CUDA.
TORCH_INDEX_URL ?= https://download.pytorch.org/whl/cpu
export KIND KIND_CLUSTER TORCH_INDEX_URL

.PHONY: kind
kind: ## A cluster in Docker with the chart and its development store (needs docker, kind, helm)
	$(KIND) get clusters | grep -qx $(KIND_CLUSTER) || $(KIND) create cluster --name $(KIND_CLUSTER) --config hack/kind.yaml --wait 120s
	mkdir -p .kind && $(KIND) get kubeconfig --name $(KIND_CLUSTER) > .kind/kubeconfig && chmod 600 .kind/kubeconfig
	hack/kind-image archsearch-trial:$(KIND_TAG) . trial_image/Dockerfile
	hack/kind-image archsearch-operator:$(KIND_TAG) . operator/Dockerfile
	hack/kind-image archsearch-devstore:$(KIND_TAG) . helm/devstore/Dockerfile
	helm --kubeconfig .kind/kubeconfig upgrade --install archsearch helm/archsearch --namespace archsearch-system --create-namespace \
	  --set devStore.enabled=true --wait --timeout 300s
	@echo 'export KUBECONFIG=$(CURDIR)/.kind/kubeconfig; then: kubectl apply -f examples/digits.yaml && kubectl get nasx --watch'

.PHONY: kind-down
kind-down: ## Remove that cluster
	$(KIND) delete cluster --name $(KIND_CLUSTER)
	rm -rf .kind
