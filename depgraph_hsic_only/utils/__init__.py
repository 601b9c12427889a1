"""Tools beside the pruners: conversion of models, training hooks, plots."""
