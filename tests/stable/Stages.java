// Fuses a pipeline as Beam's Flink runner does, and prints each stage's input and what it keeps.

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Set;
import org.apache.beam.model.pipeline.v1.RunnerApi;
import org.apache.beam.sdk.util.construction.PTransformTranslation;
import org.apache.beam.sdk.util.construction.graph.ExecutableStage;
import org.apache.beam.sdk.util.construction.graph.GreedyPipelineFuser;
import org.apache.beam.sdk.util.construction.graph.ProtoOverrides;
import org.apache.beam.sdk.util.construction.graph.SplittableParDoExpander;
import org.apache.beam.sdk.util.construction.graph.TrivialNativeTransformExpander;

public class Stages {
  // What the runner translates itself.
  private static final Set<String> NATIVE =
      Set.of(
          PTransformTranslation.IMPULSE_TRANSFORM_URN,
          PTransformTranslation.FLATTEN_TRANSFORM_URN,
          PTransformTranslation.GROUP_BY_KEY_TRANSFORM_URN,
          PTransformTranslation.RESHUFFLE_URN);

  public static void main(String[] paths) throws Exception {
    for (String path : paths) {
      RunnerApi.Pipeline pipeline = RunnerApi.Pipeline.parseFrom(Files.readAllBytes(Path.of(path)));
      pipeline = TrivialNativeTransformExpander.forKnownUrns(pipeline, NATIVE);
      pipeline =
          ProtoOverrides.updateTransform(
              PTransformTranslation.PAR_DO_TRANSFORM_URN,
              pipeline,
              SplittableParDoExpander.createSizedReplacement());
      for (ExecutableStage stage : GreedyPipelineFuser.fuse(pipeline).getFusedStages()) {
        String input = stage.getInputPCollection().getPCollection().getUniqueName();
        int keeps = stage.getUserStates().size() + stage.getTimers().size();
        System.out.println(path + "\t" + input + "\t" + keeps);
      }
    }
  }
}
