"""FINDS model directories, in the Hugging Face cache and in workspaces. Standard library only; judges nothing."""
